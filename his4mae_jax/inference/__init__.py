"""The trained encoder on whole volumes: expand-stride (paper section 3.3), cover-stride, tiles of bounded memory."""
