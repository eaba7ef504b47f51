//! The mesh in one process: real proxies, CA and controller on loopback, fed from YAML.
