//! Exchanges, sans-I/O: from the bytes of one connection to the bytes of others, by the decisions of `weft-core` and with the codecs of `weft-http`.
//! No sockets, no tokio, no clock: bytes and events in, bytes and commands out, time as an argument.
