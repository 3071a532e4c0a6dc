"""Tables, pages and figures made from finished experiments."""
