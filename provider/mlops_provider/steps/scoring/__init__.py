"""Score partitions with the champion."""
