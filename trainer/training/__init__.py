"""One run on a borrowed model: what is planned, the session that a method uses, the loop."""
