"""The forward pass over packed rows: attention rule, backbone, and the head tile by tile."""
