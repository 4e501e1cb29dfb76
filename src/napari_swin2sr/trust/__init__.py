"""Where a super-resolved pixel may be believed."""
