"""How a program or a script talks to codexd: finds it by itself, asks, and follows its events without a gap."""
