"""Several tritonservers behind one address, by Envoy."""
