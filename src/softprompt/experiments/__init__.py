"""Many runs at once: sweep, compare, reproduce."""
