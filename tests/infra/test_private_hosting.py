"""The network of the endpoints: out to the data bucket, and nowhere else."""

from __future__ import annotations

from tests.infra.synthesis import Resource, Synthesis, listed, statements
from tests.infra.test_permissions import allowances, text

# Nothing that bills by the hour, and no way to the internet.
MADE_OF = {
    "AWS::EC2::VPC",
    "AWS::EC2::Subnet",
    "AWS::EC2::RouteTable",
    "AWS::EC2::SubnetRouteTableAssociation",
    "AWS::EC2::SecurityGroup",
    "AWS::EC2::VPCEndpoint",
    "AWS::EC2::FlowLog",
}


def only(synthesis: Synthesis, kind: str) -> tuple[str, Resource]:
    [(name, resource)] = synthesis.properties(kind).items()
    return name, resource


def test_there_is_no_network_without_the_setting(local: Synthesis, sandbox: Synthesis, production: Synthesis) -> None:
    for synthesis in (local, sandbox, production):
        assert "AWS::EC2::" not in text(synthesis.service)
        assert "ec2:" not in text(synthesis.service)


def test_no_way_leads_to_the_internet_and_nothing_bills_by_the_hour(guarded: Synthesis) -> None:
    kinds = {resource["Type"] for resource in guarded.service["Resources"].values()}
    assert {kind for kind in kinds if kind.startswith("AWS::EC2::")} == MADE_OF
    _, endpoint = only(guarded, "AWS::EC2::VPCEndpoint")
    assert endpoint["VpcEndpointType"] == "Gateway"
    assert text(endpoint["ServiceName"]).endswith('".s3"]]}')
    assert {text(route) for route in endpoint["RouteTableIds"]} == {
        text({"Ref": name}) for name in guarded.resources("AWS::EC2::RouteTable")
    }


def test_the_way_to_s3_leads_to_the_data_bucket_only(guarded: Synthesis) -> None:
    _, endpoint = only(guarded, "AWS::EC2::VPCEndpoint")
    [allowed] = endpoint["PolicyDocument"]["Statement"]
    assert set(allowed["Action"]) == {"s3:GetObject", "s3:ListBucket", "s3:PutObject", "s3:AbortMultipartUpload"}
    assert allowed["Condition"] == {"StringEquals": {"aws:PrincipalAccount": {"Ref": "AWS::AccountId"}}}
    bucket, objects = allowed["Resource"]
    assert "DataBucket" in bucket["Fn::ImportValue"]
    assert objects == {"Fn::Join": ["", [bucket, "/*"]]}


def test_the_way_is_wide_enough_for_what_the_role_may_do(guarded: Synthesis) -> None:
    _, endpoint = only(guarded, "AWS::EC2::VPCEndpoint")
    own = [one for name, one in allowances(guarded) if name.startswith("HostingRoleDefaultPolicy")]
    wanted = {action for one in own for action in listed(one["Action"]) if action.startswith("s3:")}
    assert wanted == set(endpoint["PolicyDocument"]["Statement"][0]["Action"])


def test_containers_are_not_called_and_call_by_https_only(guarded: Synthesis) -> None:
    _, group = only(guarded, "AWS::EC2::SecurityGroup")
    assert "SecurityGroupIngress" not in group
    [out] = group["SecurityGroupEgress"]
    assert (out["IpProtocol"], out["FromPort"], out["ToPort"]) == ("tcp", 443, 443)


def test_there_are_subnets_in_two_zones_and_none_is_public(guarded: Synthesis) -> None:
    subnets = guarded.properties("AWS::EC2::Subnet").values()
    assert len({text(subnet["AvailabilityZone"]) for subnet in subnets}) == 2
    assert {subnet["MapPublicIpOnLaunch"] for subnet in subnets} == {False}


def test_models_are_told_of_the_network(guarded: Synthesis) -> None:
    functions = guarded.functions()
    group, _ = only(guarded, "AWS::EC2::SecurityGroup")
    host = functions["lambdas.hosting.host_model.handler"]["Environment"]["Variables"]
    subnets = [{"Ref": name} for name in guarded.resources("AWS::EC2::Subnet")]
    assert host["SUBNET_IDS"] == {"Fn::Join": ["", [subnets[0], ",", subnets[1]]]}
    removal = functions["lambdas.hosting.remove_endpoints.handler"]["Environment"]["Variables"]
    assert host["SECURITY_GROUP_IDS"] == removal["SECURITY_GROUP_ID"] == {"Fn::GetAtt": [group, "GroupId"]}


def test_the_role_of_models_makes_interfaces_in_this_network_only(guarded: Synthesis) -> None:
    network, _ = only(guarded, "AWS::EC2::VPC")
    own = [one for name, one in allowances(guarded) if name.startswith("HostingRoleDefaultPolicy")]
    by_action = {action: one for one in own for action in listed(one["Action"]) if action.startswith("ec2:")}
    making = by_action.pop("ec2:CreateNetworkInterface")["Resource"]
    assert sum(":subnet/" in text(resource) for resource in making) == 2
    assert sum(":security-group/" in text(resource) for resource in making) == 1
    assert len(making) == 4
    for action, one in by_action.items():
        if not action.startswith("ec2:Describe"):
            assert network in text(one["Condition"]["ArnEquals"]["ec2:Vpc"]), action
    assert {action for action in by_action if not action.startswith("ec2:Describe")} == {
        "ec2:CreateNetworkInterfacePermission", "ec2:DeleteNetworkInterface", "ec2:DeleteNetworkInterfacePermission",
    }  # fmt: skip


def test_the_network_and_the_right_to_leave_it_go_after_the_endpoints(guarded: Synthesis) -> None:
    """CloudFormation deletes what depends before what it depends on."""
    [removal] = guarded.resources("Custom::RuntimeResources").values()
    needed = {
        name
        for kind in ("Subnet", "SecurityGroup", "VPC", "VPCEndpoint")
        for name in guarded.resources(f"AWS::EC2::{kind}")
    }
    needed |= {name for name in guarded.resources("AWS::IAM::Policy") if name.startswith("HostingRoleDefaultPolicy")}
    assert len(needed) == 6
    assert needed <= set(removal["DependsOn"])


def test_flows_are_recorded_by_a_role_that_can_do_nothing_else(guarded: Synthesis) -> None:
    _, flows = only(guarded, "AWS::EC2::FlowLog")
    (network,) = guarded.resources("AWS::EC2::VPC")
    assert (flows["ResourceId"], flows["TrafficType"]) == ({"Ref": network}, "ALL")
    group = flows["LogGroupName"]["Ref"]
    assert guarded.properties("AWS::Logs::LogGroup")[group]["RetentionInDays"] == 180
    policies = {
        name: policy
        for name, policy in guarded.properties("AWS::IAM::Policy").items()
        if policy["Roles"] == [{"Ref": flows["DeliverLogsPermissionArn"]["Fn::GetAtt"][0]}]
    }
    [(_, allowed)] = statements(policies)
    assert set(allowed["Action"]) == {"logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"}
    assert allowed["Resource"] == {"Fn::GetAtt": [group, "Arn"]}
