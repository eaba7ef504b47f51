//! The mutating webhook: adds the init container and the sidecar to pods.
