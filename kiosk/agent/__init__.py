"""The hypervisor's daemon: keeps the images that its host should hold.

Two processes: `daemon`, always there and small (standard library and libtorrent alone), which waits, polls,
reports and takes part in the swarm; and `work`, started when there is something to do, which verifies, fetches
and switches. `orders` is what both are told, `plan` what is decided.
"""
