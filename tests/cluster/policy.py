"""Judges what a role has asked of the API by its policies: what it had no right to, and which rights it never used."""

import fnmatch
from typing import Any

Call = dict[str, Any]
Ask = tuple[str, str, dict[str, str | None]]
"""An action, a resource, and what the conditions look at."""

REGION, ACCOUNT = "us-west-2", "123456789012"
EC2 = f"arn:aws:ec2:{REGION}:{ACCOUNT}:"
S3_ACTIONS = {
    "GET": "s3:GetObject",
    "HEAD": "s3:GetObject",
    "PUT": "s3:PutObject",
    "DELETE": "s3:DeleteObject",
    "POST": "s3:PutObject",
}


def statements(role: str) -> list[dict[str, Any]]:
    """Of all policies of a role, as moto's CloudFormation has filled them in."""
    import json

    from moto.iam import iam_backends

    backend = iam_backends[ACCOUNT]["aws"]
    found = backend.get_role(role)
    managed = [
        version for policy in found.managed_policies.values() for version in policy.versions if version.is_default
    ]
    texts: list[Any] = [*found.policies.values(), *(version.document for version in managed)]
    return [
        statement for text in texts for statement in (text if isinstance(text, dict) else json.loads(text))["Statement"]
    ]


def refused(calls: list[Call], role: str) -> set[tuple[str, str]]:
    """What the role did without a right to it."""
    rights = statements(role)
    asked = [ask for call in calls if call["who"] == role for ask in asks(call)]
    return {(action, resource) for action, resource, context in asked if not allows(rights, action, resource, context)}


def unused(calls: list[Call], role: str) -> set[str]:
    """Actions that the role may do and never did."""
    did = {action for call in calls if call["who"] == role for action, _, _ in asks(call)}
    return {action for statement in statements(role) for action in _many(statement["Action"])} - did


def allows(rights: list[dict[str, Any]], action: str, resource: str, context: dict[str, str | None]) -> bool:
    return any(
        action in _many(right["Action"])
        and any(fnmatch.fnmatchcase(resource, pattern) for pattern in _many(right["Resource"]))
        and all(
            fnmatch.fnmatchcase(context.get(key) or "", value) if test == "StringLike" else context.get(key) == value
            for test, wanted in right.get("Condition", {}).items()
            for key, value in wanted.items()
        )
        for right in rights
    )


def asks(call: Call) -> list[Ask]:
    """What AWS looks for a right to when it gets this call."""
    action, params = call["action"], call["params"]
    if call["service"] == "s3":
        return _s3(action, params)
    if action == "RunInstances":
        return _order(params)
    mine: dict[str, str | None] = {"aws:ResourceTag/ray-cluster-name": "rekd"}
    named = [value for key, value in params.items() if key.startswith(("ResourceId.", "InstanceId."))]
    if named and not action.startswith("Describe"):
        return [(f"ec2:{action}", f"{EC2}instance/{name}", mine) for name in named]
    return [(f"{call['service']}:{action}", "*", {})]


def _order(params: dict[str, str]) -> list[Ask]:
    tags = {
        value: params[key.removesuffix("Key") + "Value"]
        for key, value in params.items()
        if key.startswith("TagSpecification.1.Tag.") and key.endswith(".Key")
    }
    kind = {"ec2:InstanceType": params["InstanceType"], "aws:RequestTag/ray-cluster-name": tags.get("ray-cluster-name")}
    parts = [
        f"subnet/{params['SubnetId']}",
        "network-interface/1",
        f"security-group/{params['SecurityGroupId.1']}",
        "volume/1",
    ]
    parts.append(f"key-pair/{params['KeyName']}")
    if "InstanceMarketOptions.MarketType" in params:
        parts.append("spot-instances-request/1")
    profile = params["IamInstanceProfile.Name"]
    return [
        ("ec2:RunInstances", f"{EC2}instance/1", kind),
        ("ec2:RunInstances", f"arn:aws:ec2:{REGION}::image/ami-1", {}),
        *(("ec2:RunInstances", EC2 + part, {}) for part in parts),
        *(
            ("ec2:CreateTags", f"{EC2}{part}/1", {"ec2:CreateAction": "RunInstances"})
            for part in ("instance", "volume")
        ),
        ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/{profile}", {"iam:PassedToService": "ec2.amazonaws.com"}),
        ("ssm:GetParameters", f"arn:aws:ssm:{REGION}::parameter{params['ImageId'].removeprefix('resolve:ssm:')}", {}),
    ]


def _s3(method: str, params: dict[str, str]) -> list[Ask]:
    bucket, _, key = params["path"].strip("/").partition("/")
    if method == "POST" and not key and "delete" in params["query"]:  # many at once; AWS asks for the right to each
        return [("s3:DeleteObject", f"arn:aws:s3:::{bucket}/any", {})]
    if not key:
        return [("s3:ListBucket" if method in ("GET", "HEAD") else f"s3:{method}Bucket", f"arn:aws:s3:::{bucket}", {})]
    action = "s3:AbortMultipartUpload" if method == "DELETE" and "uploadId" in params["query"] else S3_ACTIONS[method]
    return [(action, f"arn:aws:s3:::{bucket}/{key}", {})]


def _many(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]
