"""Training and measuring reward models with heads on a vision encoder; captioners that judge are in rlkit/train."""
