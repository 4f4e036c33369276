"""kiosk: build, sign, distribute and contextualize virtual worker nodes for batch farms."""
