"""The sections of the report page, one a module, each from Results to markup."""
