"""The stages of a boot, one module each, in this order: context, identity, verify, layers, apply, scratch, attest."""
