//! Secrets that headers of HTTPEndpoints and components have, from stores on this machine.

#![forbid(unsafe_code)]

use crate::support::{App, Place, Process, call, eventually, free_port, get};
use std::{fs, path::Path};

fn write(path: &Path, text: &str) {
    let other = path.with_extension("new");
    fs::write(&other, text).unwrap();
    fs::rename(&other, path).unwrap();
}

fn store(name: &str, kind: &str, metadata: &str) -> String {
    format!(
        "kind: Component\nmetadata: {{name: {name}}}\nspec: {{type: secretstores.{kind}, version: v1, \
         metadata: [{metadata}]}}\n---\n"
    )
}

fn endpoint(port: u16, store: &str, reference: &str) -> String {
    format!(
        "kind: HTTPEndpoint\nmetadata: {{name: shop}}\nauth: {{secretStore: {store}}}\nspec:\n  \
         baseUrl: http://127.0.0.1:{port}\n  headers:\n  - {{name: X-Key, secretKeyRef: \
         {reference}}}\n"
    )
}

fn sidecar(place: &Place, port: u16) -> Process {
    let port = port.to_string();
    let mut command = place.ringcar(&["sidecar", "--app-id=orders", "--enable-metrics=false"]);
    command.args(["--dapr-listen-addresses=127.0.0.1", "--resources-path=resources"]);
    command.args(["--dapr-http-port", &port]).env("SHOP_KEY", "of-env");
    let mut process = Process::start(&mut command);
    process.wait_for("dapr initialized");
    process
}

const CALL: &str = "GET /v1.0/invoke/shop/method/pay";

#[test]
fn endpoints_have_their_headers_from_secret_stores() {
    let place = Place::new();
    fs::create_dir(place.path().join("resources")).unwrap();
    fs::create_dir(place.path().join("kept")).unwrap();
    let (file, resource) =
        (place.path().join("kept/s.json"), place.path().join("resources/r.yaml"));
    let shop = App::start();
    write(&file, "{\"db\": {\"key\": \"of-file\"}}");
    let env = store("env", "local.env", "{name: prefix, value: SHOP_}");
    let local = store("local", "local.file", "{name: secretsFile, value: kept/s.json}");
    let head = [env, local].concat();
    write(&resource, &[&head, endpoint(shop.port, "env", "{name: KEY}").as_str()].concat());
    let port = free_port();
    let mut process = sidecar(&place, port);
    let key = || {
        if call(port, CALL, &[], "").status != 200 {
            return String::new();
        }
        let head = shop.request_for("/pay");
        let line = head.lines().find_map(|line| line.strip_prefix("X-Key: "));
        line.unwrap_or_default().to_owned()
    };
    assert_eq!(key(), "of-env");

    let of_file = endpoint(shop.port, "local", "{name: 'db:key', key: 'db:key'}");
    write(&resource, &[&head, of_file.as_str()].concat());
    process.wait_for("Configuration reloaded");
    eventually("the file's is sent", || key() == "of-file");
    write(&file, "{\"db\": {\"key\": \"another\"}}");
    process.wait_for("Configuration reloaded");
    eventually("the secret that changed is sent", || key() == "another");

    for (case, store, reference, want) in [
        ("no such store", "vault", "{name: KEY}", "in the secret store \\\"vault\\\", which this"),
        ("no such secret", "local", "{name: nothing}", "it has no secret \\\"nothing\\\""),
        ("the sidecar's own", "env", "{name: X}", "it has no secret \\\"X\\\""),
    ] {
        write(&resource, &[&head, endpoint(shop.port, store, reference).as_str()].concat());
        let line = process.wait_for(want);
        assert!(line.contains("so HTTPEndpoint \\\"shop\\\" is left out"), "{case}: {line}");
        eventually("no call goes without its key", || {
            call(port, CALL, &[], "").body.contains("couldn't find service: shop")
        });
        assert!(!line.contains("another"), "{case}: {line}");
    }
    write(&file, "no JSON");
    let line = process.wait_for("is not reloaded");
    assert!(line.contains("secretsFile kept/s.json is no JSON: line 1 column 2"), "{line}");
}

#[test]
fn components_have_their_metadata_from_secret_stores() {
    let place = Place::new();
    fs::create_dir(place.path().join("resources")).unwrap();
    let resource = place.path().join("resources/r.yaml");
    let check = "kind: Component\nmetadata: {name: check}\nauth: {secretStore: env}\nspec:\n  type: \
                 middleware.http.routerchecker\n  metadata: [{name: rule, secretKeyRef: {name: RULE}}]\n";
    write(&resource, &[&store("env", "local.env", ""), check].concat());
    let spec =
        "spec: {httpPipeline: {handlers: [{name: check, type: middleware.http.routerchecker}]}}";
    fs::write(place.path().join("c.yaml"), spec).unwrap();
    let arguments = ["sidecar", "--app-id=x", "--config=c.yaml", "--resources-path=resources"];
    let finished = place.finish(&arguments);
    assert_eq!(finished.code, 1, "{}", finished.output);
    let want =
        "spec.metadata[0]: is not in the secret store \\\"env\\\": it has no secret \\\"RULE\\\"";
    assert!(finished.output.contains(want), "{}", finished.output);

    let port = free_port();
    let port_text = port.to_string();
    let mut command = place.ringcar(&arguments);
    command.args(["--dapr-listen-addresses=127.0.0.1", "--enable-metrics=false"]);
    command.args(["--dapr-http-port", &port_text]).env("RULE", "^/v1.0/metadata$");
    let mut process = Process::start(&mut command);
    process.wait_for("dapr initialized");
    assert_eq!(get(port, "/v1.0/metadata").status, 200);
    let refused = get(port, "/v1.0/healthz");
    assert_eq!((refused.status, refused.body.as_str()), (400, "invalid router"));
}
