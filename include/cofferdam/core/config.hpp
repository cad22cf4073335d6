// Compile-time facts every header needs: version, Asio flavour, the inline namespace that keeps flavours apart.
#pragma once

#define COFFERDAM_VERSION_MAJOR 0
#define COFFERDAM_VERSION_MINOR 1
#define COFFERDAM_VERSION_PATCH 0

// A library built for Boost.Asio and a program built for standalone Asio (or the reverse) must not link: the types
// differ in layout. The inline namespace puts the flavour into every mangled name.
#if defined(COFFERDAM_USE_BOOST_ASIO)
#define COFFERDAM_ABI v0_boost
#else
#define COFFERDAM_ABI v0
#endif
