"""The stages of a boot, one module each: context, identity, network, verify, layers, apply, scratch, access, hooks,
attest, join."""
