"""Speed is measured here, and never asserted in a test. `scripts/bench core` is the way in."""
