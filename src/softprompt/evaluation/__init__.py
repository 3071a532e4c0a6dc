"""Records of what a backbone answered, scores from them, and how sure they are."""
