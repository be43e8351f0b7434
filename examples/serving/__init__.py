"""What the examples' own HTTP servers share: limits on what strangers send, and their options. It
goes onto the box with them."""
