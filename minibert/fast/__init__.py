"""The page's layers a second time, over packed tokens; and the choice between the two."""
