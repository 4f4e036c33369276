"""The stages of a boot, one module each: context, identity, verify, layers, apply, scratch, attest, join."""
