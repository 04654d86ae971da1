"""A network from which a container reaches the data bucket and nothing else: no way to the internet, no way in."""

from __future__ import annotations

from aws_cdk import Aws, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.constructs.functions import Functions

ZONES = 2  # an endpoint wants two at least: https://docs.aws.amazon.com/sagemaker/latest/dg/host-vpc.html
HTTPS = 443


class PrivateNetwork(Construct):
    """Without a NAT gateway or an interface endpoint, which bill by the hour: a gateway endpoint costs nothing."""

    def __init__(self, scope: Construct, id: str, *, functions: Functions, bucket: s3.IBucket) -> None:
        super().__init__(scope, id)
        self._vpc = ec2.Vpc(
            self,
            "Vpc",
            max_azs=ZONES,
            nat_gateways=0,
            subnet_configuration=[
                ec2.SubnetConfiguration(name="Hosting", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED, cidr_mask=24)
            ],
        )
        self.security_group = ec2.SecurityGroup(
            self,
            "Containers",
            vpc=self._vpc,
            description="Containers of endpoints: HTTPS to S3, nothing in.",
            allow_all_outbound=False,
        )
        self.security_group.add_egress_rule(
            ec2.Peer.any_ipv4(), ec2.Port.tcp(HTTPS), "To S3: the subnets know no other way out."
        )
        self.subnet_ids = [subnet.subnet_id for subnet in self._vpc.isolated_subnets]
        self._open_the_way_to(bucket)
        self._record_flows(functions)

    def allow_interfaces(self, role: iam.Role) -> None:
        """SageMaker makes the containers' network interfaces under the role of the model.

        https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html#sagemaker-roles-createmodel-perms
        """
        stack = Stack.of(self)
        interfaces = stack.format_arn(service="ec2", resource="network-interface", resource_name="*")
        groups = stack.format_arn(
            service="ec2", resource="security-group", resource_name=self.security_group.security_group_id
        )
        subnets = [stack.format_arn(service="ec2", resource="subnet", resource_name=name) for name in self.subnet_ids]
        for statement in (
            iam.PolicyStatement(actions=["ec2:CreateNetworkInterface"], resources=[interfaces, groups, *subnets]),
            iam.PolicyStatement(
                actions=[
                    "ec2:CreateNetworkInterfacePermission",
                    "ec2:DeleteNetworkInterface",
                    "ec2:DeleteNetworkInterfacePermission",
                ],
                resources=[interfaces],  # named when they are made; told apart by where they are
                conditions={"ArnEquals": {"ec2:Vpc": self._vpc.vpc_arn}},
            ),
            iam.PolicyStatement(
                actions=[
                    f"ec2:Describe{kind}"
                    for kind in ("NetworkInterfaces", "Vpcs", "DhcpOptions", "Subnets", "SecurityGroups")
                ],
                resources=["*"],  # these actions know no resource
            ),
        ):
            role.add_to_policy(statement)

    def _open_the_way_to(self, bucket: s3.IBucket) -> None:
        endpoint = self._vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3)
        endpoint.add_to_policy(
            iam.PolicyStatement(
                principals=[iam.AnyPrincipal()],
                actions=["s3:GetObject", "s3:ListBucket", "s3:PutObject", "s3:AbortMultipartUpload"],
                resources=[bucket.bucket_arn, bucket.arn_for_objects("*")],
                conditions={"StringEquals": {"aws:PrincipalAccount": Aws.ACCOUNT_ID}},
            )
        )

    def _record_flows(self, functions: Functions) -> None:
        """Who tried to reach whom. By hand: the library's would let the role pass itself on."""
        log_group = functions.log_group(self, "FlowLog")
        role = iam.Role(
            self,
            "FlowLogRole",
            assumed_by=iam.ServicePrincipal(
                "vpc-flow-logs.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}}
            ),
        )
        log_group.grant(role, "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents")
        ec2.CfnFlowLog(
            self,
            "Flows",
            resource_id=self._vpc.vpc_id,
            resource_type="VPC",
            traffic_type="ALL",
            log_group_name=log_group.log_group_name,
            deliver_logs_permission_arn=role.role_arn,
        ).node.add_dependency(role)
