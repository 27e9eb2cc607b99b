"""What every picture is made of: style, slices with overlays, training curves, bars."""
