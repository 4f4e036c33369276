"""IBM LSF and its open relatives (OpenLava, volclava): by their commands, and by their event log."""
