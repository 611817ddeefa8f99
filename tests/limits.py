"""How long a test waits before it calls what it waits for hung. Nothing that works takes a fraction
of it, on however busy a machine; no verdict may hang on anything shorter."""

HANGS = 900.0  # seconds
