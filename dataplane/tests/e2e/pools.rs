//! Connections to apps and peers: when one is used again, when it must not be, and what may be sent
//! twice.

#![forbid(unsafe_code)]

use crate::{
    OK, X, answer, get, post, request,
    support::{App, Framing, Hop, Mesh, on_both_engines},
};
use dataplane::engine::Choice;

on_both_engines! {
    fn connection_is_shared_by_clients_one_after_the_other(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut first = mesh.client();
            first.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(OK);
            first.read_response();
            drop(first);
            let mut second = mesh.client();
            second.send(get(X));
            upstream.read_request();
            upstream.send(OK);
            assert_eq!(second.read_response().status(), 200, "{hop:?}");
            app.assert_untouched();
        }
    }

    fn last_used_connection_is_used_first(engine: Choice) {
        let app = App::listen();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        let mut clients = [mesh.client(), mesh.client()];
        let mut upstreams = clients.each_mut().map(|client| {
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream
        });
        for (client, upstream) in clients.iter_mut().zip(&mut upstreams) {
            upstream.send(OK);
            client.read_response();
        }
        clients[0].send(get(X));
        upstreams[1].read_request();
        upstreams[0].assert_silent();
    }

    fn app_that_closed_an_idle_connection_is_called_anew(engine: Choice) {
        for hop in Hop::BOTH {
            for verb in ["GET", "POST"] {
                let app = App::listen();
                let mesh = Mesh::start(engine, hop, app.address());
                let mut client = mesh.client();
                client.send(get(X));
                let mut upstream = app.accept();
                upstream.read_request();
                upstream.send(OK);
                client.read_response();
                drop(upstream);
                mesh.settle_back();
                client.send(request(verb, X, "Content-Length: 2\r\n") + "hi");
                let mut upstream = app.accept();
                assert_eq!(upstream.read_request().text(), "hi", "{verb} ({hop:?})");
                upstream.send(OK);
                assert_eq!(client.read_response().status(), 200, "{verb} ({hop:?})");
            }
        }
    }

    fn bytes_on_an_idle_connection_are_nobodys_answer(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(OK);
            client.read_response();
            upstream.send(answer("200 OK", "", "poison"));
            mesh.settle_back();
            upstream.read_to_end();
            client.send(post(X, "hi"));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(OK);
            assert_eq!(client.read_response().text(), "ok", "{hop:?}");
        }
    }

    fn bytes_behind_an_answer_are_nobodys_answer(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send([OK, &answer("200 OK", "", "poison")].concat());
            assert_eq!(client.read_response().text(), "ok", "{hop:?}");
            upstream.read_to_end();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(OK);
            assert_eq!(client.read_response().text(), "ok", "{hop:?}");
        }
    }

    fn app_that_says_close_is_called_anew(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(answer("200 OK", "Connection: Close\r\n", "ok"));
            assert_eq!(client.read_response().text(), "ok", "{hop:?}");
            upstream.read_to_end();
            client.send(get(X));
            app.accept().read_request();
        }
    }

    fn safe_request_is_sent_again_when_a_reused_connection_dies(engine: Choice) {
        for hop in Hop::BOTH {
            for (verb, body) in
                [("GET", ""), ("PUT", "hello"), ("DELETE", ""), ("OPTIONS", ""), ("HEAD", "")]
            {
                let app = App::listen();
                let mesh = Mesh::start(engine, hop, app.address());
                let mut client = mesh.client();
                client.send(get(X));
                let mut upstream = app.accept();
                upstream.read_request();
                upstream.send(OK);
                client.read_response();
                client
                    .send(request(verb, X, &format!("Content-Length: {}\r\n", body.len())) + body);
                let once = upstream.read_request();
                drop(upstream);
                let mut upstream = app.accept();
                let again = upstream.read_request();
                assert_eq!(again.to_string(), once.to_string(), "{verb} ({hop:?})");
                upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                assert_eq!(client.read_response_to(verb).status(), 200, "{verb} ({hop:?})");
            }
        }
    }

    fn safe_request_is_sent_again_only_once(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(OK);
            client.read_response();
            client.send(get(X));
            upstream.read_request();
            drop(upstream);
            let mut upstream = app.accept();
            upstream.read_request();
            drop(upstream);
            assert_eq!(client.read_response().status(), 500, "{hop:?}");
            app.assert_untouched();
        }
    }

    fn unsafe_request_is_never_sent_again(engine: Choice) {
        for hop in Hop::BOTH {
            for verb in ["POST", "PATCH"] {
                let app = App::listen();
                let mesh = Mesh::start(engine, hop, app.address());
                let mut client = mesh.client();
                client.send(get(X));
                let mut upstream = app.accept();
                upstream.read_request();
                upstream.send(OK);
                client.read_response();
                client.send(request(verb, X, "Content-Length: 5\r\n") + "hello");
                upstream.read_request();
                drop(upstream);
                let response = client.read_response();
                assert_eq!(response.status(), 500, "{verb} ({hop:?}): {response}");
                assert!(response.text().contains("EOF"), "{verb} ({hop:?}): {response}");
                app.assert_untouched();
            }
        }
    }

    fn request_is_not_sent_again_once_an_answer_has_begun(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(OK);
            client.read_response();
            client.send(get(X));
            upstream.read_request();
            upstream.send("HTTP/1.1 200 O");
            drop(upstream);
            assert_eq!(client.read_response().status(), 500, "{hop:?}");
            app.assert_untouched();
        }
    }

    fn request_in_chunks_is_not_sent_again(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(OK);
            client.read_response();
            client.send(request("PUT", X, "Transfer-Encoding: chunked\r\n") + "1\r\na\r\n");
            upstream.read_head();
            upstream.read_bytes(6);
            drop(upstream);
            assert_eq!(client.read_response().status(), 500, "{hop:?}");
            app.assert_untouched();
        }
    }

    fn surplus_after_head_answer_is_not_reused(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request("HEAD", X, ""));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison");
            let response = client.read_response_to("HEAD");
            assert_eq!((response.status(), response.framing), (200, Framing::Empty), "{hop:?}");
            upstream.read_to_end();
            client.send(get(X));
            app.accept().read_request();
        }
    }

    fn idle_connections_the_app_closed_are_not_kept(engine: Choice) {
        let app = App::listen();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        let mut clients: Vec<_> = (0..100).map(|_| mesh.client()).collect();
        for client in &mut clients {
            client.send(get(X));
        }
        let mut upstreams: Vec<_> = clients.iter().map(|_| app.accept()).collect();
        for upstream in &mut upstreams {
            upstream.read_request();
            upstream.send(OK);
        }
        for client in &mut clients {
            client.read_response();
        }
        for upstream in &upstreams {
            upstream.shutdown_write();
        }
        // The other side is closed too, by itself: none is left half open.
        for upstream in &mut upstreams {
            upstream.read_to_end();
        }
    }
}
