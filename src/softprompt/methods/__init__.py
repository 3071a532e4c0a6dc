"""What a soft prompt is, and how each paper makes one."""
