"""Private keys and all that is signed with them. Nothing outside this package can open a private key.

It is imported by the commands of the kiosk host (`kiosk init`, `key`, `publish`, `resign`, `delegate`) and
must not be reachable from what runs on a hypervisor or in a guest; import-linter holds that.
"""
