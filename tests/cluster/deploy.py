"""What docs/cluster.md does with `aws`, by boto3: makes the stack, prints its group. deploy.py PUBLIC-KEY BUCKET"""

import sys
from pathlib import Path

import boto3

public_key, bucket = sys.argv[1:]
ec2, stacks = boto3.client("ec2"), boto3.client("cloudformation")
ec2.import_key_pair(KeyName="rekd", PublicKeyMaterial=public_key.encode())  # moto's CloudFormation makes none
given = {
    "Address": "203.0.113.7/32",
    "Vpc": ec2.describe_vpcs()["Vpcs"][0]["VpcId"],
    "PublicKey": public_key,
    "Bucket": bucket,
    "MakeBucket": "yes",
}
stacks.create_stack(
    StackName="rekd",
    TemplateBody=Path("clusters/aws/stack.yaml").read_text(),
    Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in given.items()],
    Capabilities=["CAPABILITY_NAMED_IAM"],
)
iam = boto3.client("iam")
(bucket_access,) = iam.list_policies(Scope="Local")["Policies"]
for role in ("rekd-head", "rekd-worker"):  # nor does it attach policies
    iam.attach_role_policy(RoleName=role, PolicyArn=bucket_access["Arn"])
outputs = stacks.describe_stacks(StackName="rekd")["Stacks"][0]["Outputs"]
print(next(output["OutputValue"] for output in outputs if output["OutputKey"] == "Group"))
