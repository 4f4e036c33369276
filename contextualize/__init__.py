"""The guest's side of kiosk: makes a booted machine the one that its context specifies, or stops it.

It runs once at boot, as root (systemd/kiosk-contextualize.service), and goes through the stages in order: context,
identity, network, verify, layers, apply, scratch, farm, access, hooks, attest, join. Whatever goes
wrong in any stage ends the machine: it never becomes ready, and says why on the console and to its hypervisor. Once
it is ready it watches itself, drains, leaves its farm and powers off (`__main__` has the words for that).

    stages     a module each; its name is the word in the log, on the console and in the report
    sources    the places that a context comes from
    farm       joining a batch farm and leaving it, by a driver for each kind
    life       what ends a machine that is ready, and how it ends without losing a job
    systemd    the units; files: the commands and settings that are in every image

`context` and `manifest` read what comes from outside, with the means of `document`. `tree`, `rules` and `units` hold
what a layer may contain and declare, `farms` and `switches` what a site's layer decides about contexts: they have no
effects, and kiosk runs the very same code before a layer is published and a VM started. `trust` and `floor` verify
what is signed, `verity` has the kernel do so. `attested` and `features` are what jobs read. `machine` is the only door
to the system.

Needs Python 3.9, the standard library, and python-tuf. Never imports kiosk.
"""
