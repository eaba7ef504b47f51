//! Exchanges, told as conversations between engines and scripted peers: what a client sends, what the application gets, what comes back.
#![allow(clippy::unwrap_used)]

mod flow;
mod lab;
mod limits;
mod retries;
mod through;
