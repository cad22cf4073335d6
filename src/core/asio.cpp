// Asio itself, compiled once.
#if defined(COFFERDAM_USE_BOOST_ASIO)
#include <boost/asio/impl/src.hpp>
#else
#include <asio/impl/src.hpp>
#endif
