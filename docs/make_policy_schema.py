"""Write dastune/policy/policy.schema.json, the JSON schema of policy files, from the models.

python docs/make_policy_schema.py
"""

import json
from pathlib import Path

from dastune.policy import policy

TARGET = Path(policy.__file__).with_name("policy.schema.json")

if __name__ == "__main__":
    TARGET.write_text(json.dumps(policy.policy_file_schema(), indent=1) + "\n", encoding="utf-8")
