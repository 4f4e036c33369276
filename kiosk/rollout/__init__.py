"""Roll-outs: a new version goes to a few hosts first, then to more, while those that have it are well. The decisions
(plan, health, step, orders) are pure; driver, record and question are the effects."""
