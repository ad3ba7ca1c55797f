"""Parts of the programs that train and judge the first bundle."""
