// Asio itself, compiled once.
#include <cofferdam/core/net.hpp>  // first: so that every unit sees the same feature macros when Asio decides by them

#if defined(COFFERDAM_USE_BOOST_ASIO)
#include <boost/asio/impl/src.hpp>
#else
#include <asio/impl/src.hpp>
#endif
