//! Clients that are malformed, slow, many or hostile: each is dealt with, and others are served.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use crate::{
    honest, honest_with,
    world::{
        Proxy, eventually,
        raw::{
            CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, Raw,
            SETTINGS, WINDOW_UPDATE, frame, get, header_block,
        },
    },
};

/// Limits under which a client without progress is seen within the patience of a test.
const IMPATIENT: &str = "  limits: {header_timeout: 300ms, idle_timeout: 1s}\n";

fn serves_others(proxy: &Proxy, after: &str) {
    let response = proxy.get("/tile/0/000");
    assert_eq!(response.status, 200, "after {after}: {}", response.text());
}

#[test]
fn what_two_readers_could_read_differently_is_refused_and_its_connection_closed() {
    let (_log, _upstream, _cache, proxy) = honest(300);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for (case, head, body, status) in [
        // Whatever stands in the body is never a second request.
        (
            "length and coding",
            "POST /checkpoint HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked",
            "0\r\n\r\n",
            400,
        ),
        (
            "coding and length",
            "GET /checkpoint HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4",
            "0\r\n\r\n",
            400,
        ),
        (
            "a chunked body of a read",
            "GET /checkpoint HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked",
            "0\r\n\r\n",
            400,
        ),
        (
            "a coding that nobody knows",
            "GET /checkpoint HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked",
            "",
            400,
        ),
        (
            "a folded coding",
            "GET /checkpoint HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked",
            "0\r\n\r\n",
            400,
        ),
        (
            "two lengths",
            "GET /checkpoint HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 39",
            "",
            400,
        ),
        (
            "a length with a sign",
            "GET /checkpoint HTTP/1.1\r\nHost: a\r\nContent-Length: +0",
            "",
            400,
        ),
        (
            "a read with a body",
            "GET /checkpoint HTTP/1.1\r\nHost: a\r\nContent-Length: 39",
            "",
            400,
        ),
        (
            "a space before the colon",
            "GET /checkpoint HTTP/1.1\r\nHost: a\r\nContent-Length : 39",
            "",
            400,
        ),
        ("no host", "GET /checkpoint HTTP/1.1", "", 400),
        (
            "two hosts",
            "GET /checkpoint HTTP/1.1\r\nHost: a\r\nHost: b",
            "",
            400,
        ),
        ("no version", "GET /checkpoint", "", 400),
        (
            "a NUL in the path",
            "GET /checkpoint\0 HTTP/1.1\r\nHost: a",
            "",
            400,
        ),
        (
            "a NUL in a header",
            "GET /checkpoint HTTP/1.1\r\nHost: a\0b",
            "",
            400,
        ),
        (
            "TLS on a plain port",
            "\x16\x03\x01\x02\0\x01\0\x01\u{7c}\x03\x03",
            "",
            400,
        ),
    ] {
        let mut client = Raw::open(proxy.address());
        client.send(format!("{head}\r\n\r\n{body}{smuggled}").as_bytes());
        let answer = String::from_utf8_lossy(&client.until_closed()).into_owned();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{case}: {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{case}: {answer}");
        serves_others(&proxy, case);
    }
    // A lone LF ends a line (RFC 9112, section 2.2), and here for everybody in the same way.
    let mut client = Raw::open(proxy.address());
    client.send(b"GET /checkpoint HTTP/1.1\nHost: a\nConnection: close\n\n");
    let answer = String::from_utf8_lossy(&client.until_closed()).into_owned();
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 1, "{answer}");
}

#[test]
fn heads_are_bounded_in_bytes_and_in_headers() {
    let (_log, _upstream, _cache, proxy) = honest(300);
    let head = |path: &str, headers: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n")
    };
    let filler = |bytes: usize| format!("X-Filler: {}\r\n", "x".repeat(bytes));
    let many = |count: usize| {
        (0..count)
            .map(|i| format!("X-{i}: y\r\n"))
            .collect::<String>()
    };
    for (case, request, statuses) in [
        (
            "a large head",
            head("/checkpoint", &filler(15_000)),
            vec![200],
        ),
        (
            "too large a head",
            head("/checkpoint", &filler(17_000)),
            vec![431],
        ),
        (
            "98 and two headers",
            head("/checkpoint", &many(98)),
            vec![200],
        ),
        (
            "99 and two headers",
            head("/checkpoint", &many(99)),
            vec![431],
        ),
        (
            "a long path",
            head(&format!("/{}", "a/".repeat(5_000)), ""),
            vec![404],
        ),
        (
            "too long a path",
            head(&format!("/{}", "a/".repeat(40_000)), ""),
            vec![414, 431],
        ),
    ] {
        let mut client = Raw::open(proxy.address());
        client.send(request.as_bytes());
        let answer = String::from_utf8_lossy(&client.until_closed()).into_owned();
        let status = answer
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        assert!(
            status.is_some_and(|status: u16| statuses.contains(&status)),
            "{case}: {answer}"
        );
        serves_others(&proxy, case);
    }
}

#[test]
fn hostile_paths_lead_nowhere() {
    let (_log, upstream, _cache, proxy) = honest(300);
    assert_eq!(proxy.get("/tile/0/000").status, 200);
    let before = upstream.tile_requests();
    for (target, status) in [
        ("/../../etc/passwd", 404),
        ("/%2e%2e/%2e%2e/etc/passwd", 404),
        ("/tile/../checkpoint", 400),
        ("/tile/%2e%2e/%2e%2e/etc/passwd", 400),
        ("/tile/0/..%2f..%2f000", 400),
        ("/tile/0/000%00", 400),
        ("/tile/0/%000", 400),
        ("/tile/0/0000000000000000000000000000000000", 400),
        ("/tile/0/-1", 400),
        ("/tile/0/+1", 400),
        ("/tile/0/18446744073709551616", 400),
        ("/tile/0/000.p/-1", 400),
        ("/tile/0/000.p/257", 400),
        ("/tile/0/000/", 400),
        ("/tile//0/000", 400),
        ("//checkpoint", 404),
        ("/default/default/checkpoint", 404),
        ("/_admin/../checkpoint", 404),
        ("/_admin%2fhealth", 404),
        ("/CHECKPOINT", 404),
        ("http://evil.example/checkpoint", 200), // absolute-form is answered as ours
        ("http://evil.example/tile/0/..", 400),
    ] {
        let response = proxy.get(target);
        assert_eq!(response.status, status, "{target}: {}", response.text());
        serves_others(&proxy, target);
    }
    for (method, target, status) in [
        ("CONNECT", "evil.example:443", 405),
        ("OPTIONS", "*", 204),
        ("TRACE", "/checkpoint", 405),
        ("PROPFIND", "/checkpoint", 405),
    ] {
        let response = proxy.send(method, target, "");
        assert_eq!(response.status, status, "{method} {target}");
    }
    assert_eq!(
        upstream.tile_requests(),
        before,
        "none of these costs the log a tile"
    );
}

#[test]
fn a_client_without_progress_is_cut_off() {
    let (_log, _upstream, _cache, proxy) = honest_with(300, IMPATIENT);
    let small_window = &[(4, 0)][..]; // SETTINGS_INITIAL_WINDOW_SIZE
    type Client = fn(&Proxy) -> Raw;
    let rows: [(&str, Client); 4] = [
        ("says nothing", |proxy| Raw::open(proxy.address())),
        ("sends half a head", |proxy| {
            let mut client = Raw::open(proxy.address());
            client.send(b"GET /checkpoint HTTP/1.1\r\nHost:");
            client
        }),
        ("idles after a request", |proxy| {
            let mut client = Raw::open(proxy.address());
            client.send(b"GET /checkpoint HTTP/1.1\r\nHost: a\r\n\r\n");
            client
        }),
        ("sends half of HTTP/2's preface", |proxy| {
            let mut client = Raw::open(proxy.address());
            client.send(b"PRI * HTTP/2.0\r\n");
            client
        }),
    ];
    for (case, client) in rows {
        client(&proxy).until_closed();
        serves_others(&proxy, case);
    }

    // One that sends a byte at a time makes no progress either.
    let mut drip = Raw::open(proxy.address());
    for byte in b"GET /checkpoint HTTP/1.1\r\nX-Drip: "
        .iter()
        .chain([b'x'; 400].iter())
    {
        if !drip.send(&[*byte]) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20)); // the drip itself, not a wait for anything
    }
    let answer = String::from_utf8_lossy(&drip.until_closed()).into_owned();
    assert!(!answer.contains(" 200 "), "{answer}");
    serves_others(&proxy, "a drip");

    // In HTTP/2 a client answers pings and opens no window: its tile waits, and it is told to go.
    for (case, settings, request) in [
        ("HTTP/2, idle after a request", &[][..], true),
        ("HTTP/2, no request", &[][..], false),
        ("HTTP/2, no window", small_window, true),
    ] {
        let cut = proxy.metric("tile_proxy_connections_cut_total");
        let mut client = Raw::http2(proxy.address(), settings);
        if request {
            client.send(&get(1, "/tile/0/000"));
        }
        while client.frame_that(|_| true).is_some() {}
        assert!(
            proxy.metric("tile_proxy_connections_cut_total") > cut,
            "{case}"
        );
        serves_others(&proxy, case);
    }
}

#[test]
fn a_client_that_reads_a_byte_a_second_is_cut_off() {
    let (_log, _upstream, _cache, proxy) = honest_with(300, IMPATIENT);
    let mut client = Raw::open(proxy.address());
    // More answers than the buffers of both kernels take.
    let requests = "GET /tile/0/000 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(4_000);
    client.0.set_nonblocking(true).expect("set");
    let mut sent = 0;
    eventually("the proxy takes no more", || {
        match std::io::Write::write(&mut client.0, &requests.as_bytes()[sent..]) {
            Ok(n) => sent += n,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return true,
        }
        proxy.metric("tile_proxy_connections_cut_total") >= 1.0
    });
    client.0.set_nonblocking(false).expect("set");
    let got = client.until_closed();
    assert!(got.len() < 4_000 * 8_192, "it was cut off before the end");
    serves_others(&proxy, "a client that does not read");
}

#[test]
fn a_slow_client_that_makes_progress_is_served_to_the_end() {
    let (_log, _upstream, _cache, proxy) =
        honest_with(300, "  limits: {header_timeout: 300ms, idle_timeout: 2s}\n");
    let mut client = Raw::http2(proxy.address(), &[(4, 2_048)]); // SETTINGS_INITIAL_WINDOW_SIZE
    for stream in [1, 3, 5, 7] {
        client.send(&get(stream, "/tile/0/000"));
    }
    let begin = Instant::now();
    let mut bytes = 0;
    // 32 KiB in windows of 2 KiB, one each 250 ms: eight times the slowest that is allowed.
    while bytes < 4 * 8_192 {
        let data = client.frame_that(|frame| frame.kind == DATA).expect("open");
        bytes += data.payload.len();
        std::thread::sleep(Duration::from_millis(250)); // what makes this client slow
        let more = (data.payload.len() as u32).to_be_bytes();
        client.send(&frame(WINDOW_UPDATE, 0, data.stream, &more));
    }
    assert!(
        begin.elapsed() > Duration::from_secs(2),
        "it outlived the limit"
    );
}

#[test]
fn floods_of_http2_frames_end_their_connection_and_nothing_else() {
    let (_log, _upstream, _cache, proxy) = honest(300);
    type Flood = fn(u32) -> Vec<u8>; // by number
    let reset: Flood = |i| {
        let stream = 2 * i + 1;
        [
            get(stream, "/checkpoint"),
            frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
        ]
        .concat()
    };
    let continuation: Flood = |i| match i {
        0 => frame(HEADERS, END_STREAM, 1, &header_block("GET", "/checkpoint")),
        _ => frame(
            CONTINUATION,
            0,
            1,
            &[&[0x00, 0x01, b'a', 0x7e][..], &[b'x'; 126]].concat(),
        ),
    };
    // What must be answered piles up with the one who does not read the answers.
    let settings: Flood = |_| frame(SETTINGS, 0, 0, &[]);
    let pings: Flood = |_| frame(PING, 0, 0, &[7; 8]);
    let empty_data: Flood = |i| match i {
        0 => frame(
            HEADERS,
            END_HEADERS,
            1,
            &header_block("POST", "/checkpoint"),
        ),
        _ => frame(DATA, 0, 1, &[]),
    };
    let before = proxy.resident_bytes();
    for (case, flood, ends) in [
        ("streams opened and reset", reset, true),
        ("headers without end", continuation, true),
        ("settings", settings, false),
        ("pings", pings, false),
        ("empty data", empty_data, false),
    ] {
        let mut client = Raw::http2(proxy.address(), &[]);
        client
            .0
            .set_write_timeout(Some(Duration::from_millis(500)))
            .expect("set");
        let mut open = true;
        for i in 0..200_000 {
            open = client.send(&flood(i));
            if !open {
                break;
            }
        }
        if ends {
            let goaway = client.frame_that(|frame| frame.kind == GOAWAY);
            assert!(!open || goaway.is_some(), "{case}: still open");
        }
        serves_others(&proxy, case);
    }
    let grown = proxy.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes are left of the floods");
}

#[test]
fn ten_thousand_idle_connections_leave_room_for_others() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit).expect("up to the hard limit");
    // As many as this machine lets both processes have, with some to spare.
    let most = maximum
        .unwrap_or(u64::MAX)
        .saturating_sub(1_000)
        .min(10_000);
    let more = format!(
        "  limits: {{connections: {}, header_timeout: 10m, idle_timeout: 10m}}\n",
        most + 10
    );
    let (_log, _upstream, _cache, proxy) = honest_with(300, &more);
    serves_others(&proxy, "the start");
    let before = proxy.resident_bytes();
    let mut idle = Vec::new();
    for i in 0..most {
        let mut client = Raw::open(proxy.address());
        // Every other one has asked for something and keeps its connection.
        if i % 2 == 0 {
            client.send(b"GET /tile/0/000.p/1 HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        idle.push(client);
    }
    eventually("all are open", || {
        proxy.metric("tile_proxy_connections") >= most as f64
    });
    serves_others(&proxy, "all of them");
    let each = proxy.resident_bytes().saturating_sub(before) / most.max(1);
    assert!(each < 32 << 10, "{each} bytes a connection");
    drop(idle);
    eventually("their places are free again", || {
        proxy.metric("tile_proxy_connections") < 10.0
    });
}

#[test]
fn a_client_that_asks_too_often_is_told_to_wait_and_others_are_not() {
    let more = "  rate_limit: {per_ip_per_second: 1, burst: 4, trusted_proxies: [127.0.0.0/8]}\n";
    let (_log, _upstream, _cache, proxy) = honest_with(300, more);
    let get = |path: &str, client: &str| {
        proxy.send("GET", path, &format!("X-Forwarded-For: {client}\r\n"))
    };
    let (flooding, quiet) = ("198.51.100.1", "198.51.100.2");
    let mut limited = get("/checkpoint", flooding);
    eventually("the flood is limited", || {
        limited = get("/checkpoint", flooding);
        limited.status == 429
    });
    let seconds = limited
        .header("retry-after")
        .and_then(|text| text.parse::<u32>().ok());
    assert_eq!(seconds, Some(1), "{}", limited.head);
    assert_eq!(limited.header("cache-control"), Some("no-store"));
    assert_eq!(limited.header("access-control-allow-origin"), Some("*"));
    assert_eq!(limited.text().lines().count(), 1);
    // An address that it only claims changes nothing: the right-most one counts.
    eventually("a claim is not believed", || {
        get("/checkpoint", &format!("203.0.113.9, {flooding}")).status == 429
    });
    for path in ["/checkpoint", "/tile/0/000"] {
        assert_eq!(get(path, quiet).status, 200, "{path}");
    }
    // Probes and metrics come as often as they like; what may change something does not.
    for _ in 0..20 {
        for path in ["/_admin/health", "/_admin/ready", "/_admin/metrics"] {
            assert_eq!(get(path, flooding).status, 200, "{path}");
        }
    }
    eventually("guessing is limited", || {
        let answer = get("/_admin/cache/stats", flooding);
        answer.status == 429 && answer.header("content-type") == Some("application/json")
    });
    assert!(proxy.metric("tile_proxy_responses_total{log=\"default\",status=\"429\"}") >= 2.0);
}

#[test]
fn above_the_connection_limit_new_ones_are_closed_and_old_ones_served() {
    let (_log, _upstream, _cache, proxy) = honest_with(
        300,
        "  admin_listen: 127.0.0.1:0\n  limits: {connections: 3, header_timeout: 10m}\n",
    );
    let mut held: Vec<Raw> = (0..3).map(|_| Raw::open(proxy.address())).collect();
    eventually("the next one is closed at once", || {
        Raw::open(proxy.address()).until_closed().is_empty()
    });
    eventually("it is said", || {
        proxy.printed("connection limit reached").len() == 1 // once
    });
    assert!(proxy.metric("tile_proxy_connections_refused_total") >= 1.0);
    assert_eq!(
        proxy.get("/_admin/health").status,
        200,
        "probes have places of their own"
    );
    held[0].send(b"GET /checkpoint HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(held[0].until_closed().starts_with(b"HTTP/1.1 200 "));
    eventually("its place is free", || {
        TcpStream::connect(proxy.address()).is_ok() && {
            let mut client = Raw::open(proxy.address());
            client.send(b"GET /checkpoint HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            client.until_closed().starts_with(b"HTTP/1.1 200 ")
        }
    });
}

#[test]
fn a_stop_lets_requests_end_and_idle_connections_go() {
    let (_log, upstream, _cache, proxy) = honest(70_000);
    serves_others(&proxy, "the start");
    let mut idle = Raw::open(proxy.address());
    idle.send(b"GET /checkpoint HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut idle2 = Raw::http2(proxy.address(), &[]);
    idle2.send(&get(1, "/checkpoint"));
    assert!(idle2.frame_that(|frame| frame.kind == DATA).is_some());
    upstream.takes(Duration::from_secs(1));
    let mut asking = Raw::open(proxy.address());
    asking.send(b"GET /tile/0/042 HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut asking2 = Raw::http2(proxy.address(), &[]);
    asking2.send(&get(1, "/tile/0/043"));
    eventually("both are under way", || {
        upstream.requests("tile/0/042") + upstream.requests("tile/0/043") == 2
    });
    proxy.signal(Signal::TERM);
    assert!(asking.until_closed().starts_with(b"HTTP/1.1 200 "));
    assert!(asking2.frame_that(|frame| frame.kind == DATA).is_some());
    assert!(idle.until_closed().starts_with(b"HTTP/1.1 200 "));
    assert!(idle2.frame_that(|frame| frame.kind == GOAWAY).is_some());
    drop((asking2, idle2));
    assert_eq!(proxy.ended(), Some(0));
}

#[test]
fn a_stop_does_not_wait_longer_than_its_deadline() {
    let (_log, _upstream, _cache, proxy) = honest_with(
        300,
        "  shutdown: {drain: 500ms}\n  limits: {idle_timeout: 10m}\n",
    );
    let mut stuck = Raw::http2(proxy.address(), &[(4, 0)]);
    stuck.send(&get(1, "/tile/0/000"));
    assert!(stuck.frame_that(|frame| frame.kind == HEADERS).is_some());
    proxy.signal(Signal::TERM);
    eventually("it gives up on it", || {
        !proxy
            .printed("connections still open; cutting them off")
            .is_empty()
    });
    assert_eq!(proxy.ended(), Some(0));
}
