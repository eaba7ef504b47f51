//! ReferenceGrant: which references may cross into its namespace.

kind! {
    /// Served as v1 and stored as v1beta1 with the same shape.
    ReferenceGrant, "gateway.networking.k8s.io", "v1", "referencegrants", NamespaceResourceScope, ReferenceGrantSpec
}
shape! {
    pub struct ReferenceGrantSpec {
        from: Vec<ReferenceGrantFrom>,
        to: Vec<ReferenceGrantTo>,
    }
}
shape! {
    pub struct ReferenceGrantFrom {
        group: String,
        kind: String,
        namespace: String,
    }
}
shape! {
    pub struct ReferenceGrantTo {
        group: String,
        kind: String,
        /// Every object of the kind when absent.
        name?: String,
    }
}
