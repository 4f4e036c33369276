"""The distribution of one version to a farm, simulated: the swarm as the agents run it, and three other ways.

`model` says what is assumed, `engine` is the swarm, `others` are plain HTTP, a Squid in each rack, and a tree of
copies. `python -m benchmarks.simulation` compares it with real runs and takes it to thousands of hosts.
"""
