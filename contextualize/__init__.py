"""The guest's side of kiosk: makes a booted machine the one that its context specifies, or stops it.

Runs once at boot, as root, as `python3 -m contextualize` (systemd/kiosk-contextualize.service). It goes
through the stages in order: context, identity, network, verify, layers, apply, scratch, access, hooks,
attest. A stage is a module of `stages`, and its name is the word in the log, on the console and in the
report. `sources` are the places that a context comes from. Whatever goes wrong in any stage ends the
machine: it never becomes ready, and says why on the console and to its hypervisor.

`document` reads what comes from outside, `rules` and `units` hold what a layer may contain and declare;
they have no effects, and `kiosk layer` runs the very same code. `machine` is the only door to the system.

Needs Python 3.9, the standard library, and python-tuf. Never imports kiosk.
"""
