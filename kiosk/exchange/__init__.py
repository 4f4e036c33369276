"""Images from elsewhere, and for elsewhere: disks of other formats, and HEPiX image lists."""
