"""Pure decisions: no AWS client, no environment, no clock. Everything arrives as an argument."""
