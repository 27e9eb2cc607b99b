"""Random fields of view from volumes (paper section 4.2): cut on the host or on the device, from memory or streamed."""
