"""The life of a machine that is ready: what ends it, and how it ends without losing a job.

    plan       what stage `attest` writes down for those that come later: when the drain begins, what runs here
    state      how far a drain has come; kept after every step, so that it goes on wherever it was interrupted
    requests   who asks for a drain: a file each, so that none is lost and the first one stands
    drain      closes the host, waits for jobs, leaves the farm, powers off (kiosk-drain.service)
    watch      looks at the context's source and at the signed repository again (kiosk-watch.timer)
    health     looks whether the machine still works (kiosk-health.timer)

Watch and health only ever ask for a drain, and only because of something they saw: what can't be reached changes
nothing. Times are the kernel's uptime, which nobody sets.
"""
