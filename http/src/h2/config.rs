//! Limits and settings, each with its reason. One `Config` is shared by all connections of a listener or pool.

/// See each field. The defaults are those between meshed pods and towards applications.
#[derive(Clone, Debug)]
pub struct Config {
    /// Streams that the peer may have open (server). 1,000: the design's number for inbound sidecars; with heads of 1 KiB and the windows of 128 KiB between
    /// meshed proxies a connection can hold 129 MiB at the very worst, which the memory budget of the process bounds further (16 MiB when no limit is known).
    pub max_streams: u32,
    /// Decoded header list: names, values and 32 bytes a field (RFC 9113, 6.5.2). 64 KiB, as for HTTP/1 heads. More is answered with 431.
    pub max_header_list: u32,
    /// Encoded header block, over all its CONTINUATION frames. 64 KiB: without Huffman and tables the list itself has that size at most.
    pub max_header_block: u32,
    /// CONTINUATION frames of one block. 16: four times what 64 KiB needs in frames of 16 KiB.
    pub max_continuations: u16,
    /// Our decoder's dynamic table: 4,096 bytes, the protocol's default; a larger one costs memory for each connection.
    pub header_table: u32,
    /// The most that our encoder uses of what the peer allows. 4,096, for the same reason.
    pub encoder_table: u32,
    /// Huffman coding on output. Off: it costs CPU to save bytes that are free between pods.
    pub huffman: bool,
    /// Receive window of a new stream, 65,535 to 2^31-1. 65,535 is the protocol's default, so that nothing has to be assumed before the peer has read our SETTINGS.
    pub stream_window: u32,
    /// Receive window of the connection. It is credited at receipt, so it bounds only what is in flight: 1 MiB fills 10 Gbit/s at 0.8 ms.
    pub connection_window: u32,
    /// Largest frame that we accept. 16,384: the protocol's least; larger frames delay others.
    pub max_frame: u32,
    /// Extended CONNECT (RFC 8441): the server offers it; the client supposes that the peer takes it even before its SETTINGS have arrived.
    pub extended_connect: bool,
    /// Requests without `:authority` and `host` are accepted. Only between meshed proxies, for HTTP/1.0 clients (RFC 9113, 8.3.1).
    pub missing_authority: bool,
    /// Streams that a client opens before the peer's SETTINGS have arrived. 100: what RFC 9113, 6.5.2 recommends as the least limit.
    pub streams_before_settings: u32,
    /// Interim responses of one exchange. 32: 103 comes once or twice, 102 every few seconds.
    pub max_interim: u8,
    /// Data, in bytes, that may wait in the output before streams queue. 68 KiB: a body of 64 KiB with its head and frames.
    pub max_output: usize,
    /// Frames that a stream may send before the next one has its turn. Four: a body of 64 KiB leaves, and arrives, in one piece, which saves the receiver three writes; whoever
    /// waits does so for 64 KiB of each stream before it, some 50 us.
    pub turn: usize,
    /// Control frames, in bytes, that may wait in the output. 64 KiB are 3,800 answers to PING that the peer does not read.
    pub max_control: usize,
    /// Limits on frames that are cheap to send and dear to receive.
    pub rates: Rates,
}

/// A bucket: `burst` at once, refilled by `per_second`, and by `per_useful` for each HEADERS and DATA frame in either direction, because the need for
/// control frames grows with the traffic.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub burst: u32,
    pub per_second: u32,
    pub per_useful: u32,
}

#[derive(Clone, Debug)]
pub struct Rates {
    /// Streams that the peer resets before we have answered completely (rapid reset, CVE-2023-44487). Burst 1,000: all streams that are allowed may be cancelled at
    /// once; 200/s: deadlines that expire.
    pub resets: Rate,
    /// Stream errors that the peer makes us answer with RST_STREAM ("made you reset", CVE-2025-8671). A correct peer makes none.
    pub stream_errors: Rate,
    /// SETTINGS: one at the start, rarely another.
    pub settings: Rate,
    /// PING: keep-alive every 10 s; gRPC measures bandwidth by one for each round trip that carries data.
    pub pings: Rate,
    /// PRIORITY (which we ignore, RFC 9113, 5.3.2), unknown frames, repeated GOAWAY, RST_STREAM of closed streams: browsers send a few for each stream.
    pub ignored: Rate,
    /// DATA without a byte and without END_STREAM: no use is known, some libraries flush so.
    pub empty_data: Rate,
    /// WINDOW_UPDATE: at most one for each DATA frame that we sent, two when the connection is counted; others send one for each read.
    pub window_updates: Rate,
}

impl Default for Rates {
    fn default() -> Self {
        let rate = |burst, per_second, per_useful| Rate { burst, per_second, per_useful };
        Rates {
            resets: rate(1000, 200, 0),
            stream_errors: rate(100, 20, 0),
            settings: rate(100, 10, 0),
            pings: rate(1000, 100, 1),
            ignored: rate(1000, 100, 2),
            empty_data: rate(100, 100, 0),
            window_updates: rate(10_000, 1000, 4),
        }
    }
}

impl Rates {
    /// Between meshed proxies. One connection carries all applications of a pod, HTTP/1 ones, too, whose every disconnect is a reset here; what a single hostile
    /// application can do is limited where it enters the mesh. 5,000/s cost a tenth of a core.
    pub fn mesh() -> Self {
        Rates { resets: Rate { burst: 10_000, per_second: 5_000, per_useful: 0 }, ..Rates::default() }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            max_streams: 1000,
            max_header_list: 64 * 1024,
            max_header_block: 64 * 1024,
            max_continuations: 16,
            header_table: 4096,
            encoder_table: 4096,
            huffman: false,
            stream_window: 65_535,
            connection_window: 1 << 20,
            max_frame: 16_384,
            extended_connect: false,
            missing_authority: false,
            streams_before_settings: 100,
            max_interim: 32,
            max_output: 68 * 1024,
            turn: 4,
            max_control: 64 * 1024,
            rates: Rates::default(),
        }
    }
}
