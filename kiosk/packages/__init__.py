"""What is installed in a root tree, by its own dpkg or rpm database, and the bill of materials made from that."""

from kiosk.packages.installed import Installed, installed

__all__ = ["Installed", "installed"]
