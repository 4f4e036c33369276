"""A batch system of kiosk's own: jobs from a file, run in the VMs of the local cloud."""
