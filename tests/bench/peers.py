"""The peers: the same durable work, as a developer of each language would write it. Their code is in peers/."""

PEERS = []
