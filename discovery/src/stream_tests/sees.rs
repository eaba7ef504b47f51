//! What a proxy sees, and when.

use super::*;

#[tokio::test]
async fn a_lookup_brings_all_that_its_answer_needs() {
    let w = World::new();
    {
        let mut t = w.tables.edit();
        t.ports.insert((String::new(), service("cart")), port("cart", &["cart-v1", "cart-v2"]));
        t.endpoints.insert(service("cart-v1"), endpoints("cart-v1", &[11]));
        t.endpoints.insert(service("cart-v2"), endpoints("cart-v2", &[12]));
    }
    let c = w.controller(None, ServerSettings::default()).await;
    let p = w.proxy(w.settings(c.address));
    p.up(true).await;
    let found = p.lookup(vip(1)).await;
    assert_eq!(found.target, Target::Service(service("cart")));
    assert_eq!(p.client.service_port(&service("cart")), Some(port("cart", &["cart-v1", "cart-v2"])));
    for name in ["cart", "cart-v1", "cart-v2"] {
        let known = p.client.endpoints(&service(name)).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(known.service, service(name));
    }
    assert_eq!(p.lookup(vip(99)).await.target, Target::Outside);
    // the second time from memory
    p.lookup(vip(1)).await;
    assert!(p.client.cached(vip(1)).is_some() && p.client.cached(vip(5)).is_none());
    assert_eq!(w.tables.fetched(&format!("lookup {}", vip(1))), 1);
    assert_eq!(p.client.wait_inbound().await.tls, MeshTlsMode::Permissive);
}

#[tokio::test]
async fn a_service_that_is_gone_still_answers_the_lookup() {
    let w = World::new();
    w.tables.edit().endpoints.clear();
    let c = w.controller(None, ServerSettings::default()).await;
    let p = w.proxy(w.settings(c.address));
    p.up(true).await;
    assert_eq!(p.lookup(vip(1)).await.target, Target::Service(service("cart")));
    assert_eq!(p.client.endpoints(&service("cart")), None);
}

#[tokio::test]
async fn changes_arrive_and_what_did_not_change_does_not() {
    let mut w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let mut p = w.proxy(w.settings(c.address));
    p.up(true).await;
    let _found = p.lookup(vip(1)).await;
    p.update(|u| matches!(u, Update::Endpoints(..))).await;
    while p.updates.try_next().is_some() {}
    // a change in name only: fetched again, not sent
    w.hear(|h| matches!(h, Heard::Acked(ResourceName::Endpoints(_)))).await;
    w.tables.edit().endpoints.insert(service("cart"), endpoints("cart", &[1, 2]));
    w.tables.tell(&[Change::Endpoints(service("cart")), Change::Endpoints(service("other"))]);
    w.tables.edit().endpoints.insert(service("cart"), endpoints("cart", &[3]));
    w.tables.tell(&[Change::All]);
    let u = p.update(|u| matches!(u, Update::Endpoints(..))).await;
    assert_eq!(u, Update::Endpoints(service("cart"), Some(endpoints("cart", &[3]))));
    w.hear(|h| matches!(h, Heard::Acked(ResourceName::Endpoints(_)))).await;
    // removed
    w.tables.edit().ports.clear();
    w.tables.tell(&[Change::ServicePort(service("cart"))]);
    let u = p.update(|u| matches!(u, Update::ServicePort(..))).await;
    assert_eq!(u, Update::ServicePort(service("cart"), None));
    // an address that means something else now
    w.tables.edit().targets.insert(vip(1), Target::Outside);
    w.tables.tell(&[Change::Address(vip(1).ip())]);
    let u = p.update(|u| matches!(u, Update::Target(..))).await;
    assert_eq!(u, Update::Target(vip(1), Some(Target::Outside)));
}

#[tokio::test]
async fn a_route_to_new_backends_waits_for_their_endpoints() {
    let w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let mut p = w.proxy(w.settings(c.address));
    p.up(true).await;
    let _found = p.lookup(vip(1)).await;
    while p.updates.try_next().is_some() {}
    {
        let mut t = w.tables.edit();
        t.ports.insert((String::new(), service("cart")), port("cart", &["new"]));
        t.endpoints.insert(service("new"), endpoints("new", &[9]));
    }
    w.tables.tell(&[Change::ServicePort(service("cart"))]);
    // make before break: the endpoints come first
    let first = p.update(|u| matches!(u, Update::ServicePort(..) | Update::Endpoints(..))).await;
    assert_eq!(first, Update::Endpoints(service("new"), Some(endpoints("new", &[9]))));
    let second = p.update(|u| matches!(u, Update::ServicePort(..))).await;
    assert_eq!(second, Update::ServicePort(service("cart"), Some(port("cart", &["new"]))));
}

#[tokio::test]
async fn after_a_restart_of_the_controller_only_differences_are_sent() {
    let mut w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let (at, mut p) = (c.address, w.proxy(w.settings(c.address)));
    p.up(true).await;
    let _found = p.lookup(vip(1)).await;
    w.hear(|h| matches!(h, Heard::Acked(ResourceName::Endpoints(_)))).await;
    c.end().await;
    p.up(false).await;
    // away: known answers stay, unknown ones fail at once
    assert_eq!(p.lookup(vip(1)).await.target, Target::Service(service("cart")));
    let asked = std::time::Instant::now();
    assert_eq!(p.client.lookup(vip(7)).await.unwrap_err(), LookupError::Disconnected);
    assert!(asked.elapsed() < Duration::from_millis(500));
    w.tables.edit().endpoints.insert(service("cart"), endpoints("cart", &[1, 2, 3]));
    while p.updates.try_next().is_some() {}
    while w.heard.try_recv().is_ok() {}
    let _c = w.controller(Some(at), ServerSettings::default()).await;
    let u = p.update(|u| !matches!(u, Update::Connected(_))).await;
    assert_eq!(u, Update::Endpoints(service("cart"), Some(endpoints("cart", &[1, 2, 3]))));
    // the only value that was sent is the only one that is acknowledged; the lookup of another address shows that the rest was looked at
    p.lookup(vip(50)).await;
    w.hear(|h| *h == Heard::Acked(ResourceName::Endpoints(service("cart")))).await;
    let next = w.hear(|h| matches!(h, Heard::Acked(_))).await;
    assert_eq!(next, Heard::Acked(ResourceName::Address(vip(50))));
    assert!(w.tables.fetched("port shop/cart:80") >= 2);
}

#[tokio::test]
async fn unused_answers_expire_while_connected_and_leases_keep_them() {
    let w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let mut settings = w.settings(c.address);
    settings.idle = Duration::from_millis(30);
    let mut p = w.proxy(settings);
    p.up(true).await;
    let held = p.lookup(vip(1)).await;
    drop(p.lookup(vip(2)).await);
    let gone = p.update(|u| matches!(u, Update::Target(_, None))).await;
    assert_eq!(gone, Update::Target(vip(2), None));
    assert!(p.client.cached(vip(1)).is_some());
    // the last lease goes, then the address, then what only it needed
    drop(held);
    p.update(|u| *u == Update::Target(vip(1), None)).await;
    p.update(|u| *u == Update::Endpoints(service("cart"), None)).await;
    let left: Vec<_> = p.client.dump().into_iter().map(|(n, ..)| n).collect();
    assert!(!left.contains(&ResourceName::Address(vip(1))), "{left:?}");
    // asked again, it is fetched again
    p.lookup(vip(1)).await;
    assert_eq!(w.tables.fetched(&format!("lookup {}", vip(1))), 2);
}

#[tokio::test]
async fn the_whole_internet_does_not_fit_into_the_table() {
    let w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let mut settings = w.settings(c.address);
    settings.outside = 10;
    settings.entries = 20;
    let p = w.proxy(settings);
    p.up(true).await;
    for host in 0..100 {
        p.lookup(([203, 0, 113, host], 443).into()).await;
    }
    assert!(p.client.dump().len() <= 13, "{:?}", p.client.dump());
    // all of it in use: the next one is refused, and only that
    let mut held = Vec::new();
    let full = loop {
        match p.client.lookup(([198, 51, 100, held.len() as u8], 1).into()).await {
            Ok(found) => held.push(found),
            Err(e) => break e,
        }
    };
    assert_eq!((full, held.len()), (LookupError::Full, 18));
    drop(held);
    p.lookup(vip(1)).await;
}

#[tokio::test]
async fn consumer_routes_are_those_of_the_clients_namespace() {
    let w = World::new();
    w.tables.edit().ports.insert(("strict".into(), service("cart")), port("cart", &["cart"]));
    let c = w.controller(None, ServerSettings::default()).await;
    let producer = w.proxy(w.settings(c.address));
    let consumer = w.proxy_with(w.settings(c.address), w.mesh.cell("strict", "web", Some("web-0")));
    for p in [&producer, &consumer] {
        p.up(true).await;
        p.lookup(vip(1)).await;
    }
    assert_eq!(producer.client.service_port(&service("cart")), Some(port("cart", &[])));
    assert_eq!(consumer.client.service_port(&service("cart")), Some(port("cart", &["cart"])));
    assert_eq!(consumer.client.wait_inbound().await.tls, MeshTlsMode::Strict);
}

#[tokio::test]
async fn a_new_bundle_is_installed_and_confirmed() {
    let mut w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let p = w.proxy(w.settings(c.address));
    p.up(true).await;
    w.hear(|h| matches!(h, Heard::Status(s) if s.bundle_version == 1)).await;
    let roots = vec![w.mesh.root.clone(), TestMesh::new("mesh.test").root];
    w.tables.edit().bundle = Some(Arc::new(Bundle::new("mesh.test", 7, &[1], roots).unwrap()));
    w.tables.tell(&[Change::Bundle]);
    let Heard::Status(s) = w.hear(|h| matches!(h, Heard::Status(s) if s.bundle_version == 7)).await else { panic!() };
    assert_eq!(&*s.leaf_issuer, p.cell.credentials().unwrap().issuer());
    assert_eq!(p.cell.bundle().version(), 7);
    assert_eq!(c.server.confirmations().sums(), [(7, s.leaf_issuer.clone(), 1)]);
    // a bundle that would lock the proxy out is refused with the reason, and the old one stays
    let roots = vec![TestMesh::new("mesh.test").root];
    w.tables.edit().bundle = Some(Arc::new(Bundle::new("mesh.test", 8, &[], roots).unwrap()));
    w.tables.tell(&[Change::Bundle]);
    let Heard::Nacked(name, reason) = w.hear(|h| matches!(h, Heard::Nacked(..))).await else { panic!() };
    assert_eq!(name, ResourceName::Bundle);
    assert!(reason.contains("bundle version 8 does not contain the root"), "{reason}");
    assert_eq!(p.cell.bundle().version(), 7);
}

#[tokio::test]
async fn a_renewed_leaf_moves_the_stream_without_a_gap() {
    let mut w = World::new();
    let c = w.controller(None, ServerSettings::default()).await;
    let p = w.proxy(w.settings(c.address));
    p.up(true).await;
    let mut seen = p.client.connection();
    seen.mark_unchanged();
    w.hear(|h| matches!(h, Heard::Connected(_))).await;
    let (chain, key) = w.mesh.leaf("shop", "web");
    p.cell.install_leaf(key, chain, Some("web-0".into()), w.mesh.clock.clone()).unwrap();
    w.hear(|h| matches!(h, Heard::Connected(_))).await;
    assert_eq!(p.lookup(vip(1)).await.target, Target::Service(service("cart")));
    assert!(!seen.has_changed().unwrap(), "it counted as up all the time");
}

#[tokio::test]
async fn another_replica_takes_over() {
    let mut w = World::new();
    let (a, b) = (w.controller(None, Default::default()).await, w.controller(None, Default::default()).await);
    let mut settings = w.settings(a.address);
    settings.controllers.push(b.address.to_string());
    let mut p = w.proxy(settings);
    p.up(true).await;
    let _found = p.lookup(vip(1)).await;
    w.hear(|h| matches!(h, Heard::Connected(_))).await;
    let (serving, other) = if a.server.confirmations().connected() == 1 { (a, b) } else { (b, a) };
    serving.end().await;
    w.hear(|h| matches!(h, Heard::Connected(_))).await;
    p.up(true).await;
    assert_eq!(other.server.confirmations().connected(), 1);
    // subscriptions have moved along
    w.tables.edit().endpoints.insert(service("cart"), endpoints("cart", &[7]));
    w.tables.tell(&[Change::Endpoints(service("cart"))]);
    let new = Update::Endpoints(service("cart"), Some(endpoints("cart", &[7])));
    assert_eq!(p.update(|u| *u == new).await, new);
}
