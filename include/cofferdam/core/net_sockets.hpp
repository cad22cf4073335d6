// TCP sockets, file descriptors and the operations on them, of whichever Asio flavour `net.hpp` chose.
#pragma once

#include <cofferdam/core/net.hpp>

// clang-format off: it would put spaces into the paths
#include COFFERDAM_ASIO_HEADER(buffer.hpp)
#include COFFERDAM_ASIO_HEADER(connect.hpp)
#include COFFERDAM_ASIO_HEADER(ip/tcp.hpp)
#include COFFERDAM_ASIO_HEADER(posix/stream_descriptor.hpp)
#include COFFERDAM_ASIO_HEADER(read.hpp)
#include COFFERDAM_ASIO_HEADER(read_until.hpp)
#include COFFERDAM_ASIO_HEADER(signal_set.hpp)
#include COFFERDAM_ASIO_HEADER(write.hpp)
// clang-format on
