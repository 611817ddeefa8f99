"""How long a test waits before it reports a hang. Nothing that works takes a fraction of it, on a
machine however busy; no result may depend on anything shorter."""

HANGS = 900.0  # seconds
